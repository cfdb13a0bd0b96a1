// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OwnedAccount} from "../src/Accounts.sol";
import {Fixture} from "../src/Fixture.sol";

/// @notice The token of local chains behaves like USDC where wallets look.
contract TestUSDCTest is Fixture {
    function _typedData(bytes memory content) private view returns (bytes32) {
        return _digest(_domain("USDC", "2", address(usdc), block.chainid), content);
    }

    function _transferDigest(string memory name, address from, address to, bytes32 nonce)
        private
        view
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            abi.encodePacked(
                name, "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
            )
        );
        return _typedData(abi.encode(typeHash, from, to, uint256(5), VALID_AFTER, VALID_BEFORE, nonce));
    }

    function _transfer(bytes memory signature) private returns (bool success) {
        bytes memory data = abi.encodeWithSignature(
            "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
            payer,
            payee,
            5,
            VALID_AFTER,
            VALID_BEFORE,
            bytes32("nonce"),
            signature
        );
        vm.prank(stranger);
        (success,) = address(usdc).call(data);
    }

    function test_usdc_describes_itself() public view {
        vm.assertEq(bytes(usdc.name()), "USDC", "name");
        vm.assertEq(bytes(usdc.symbol()), "USDC", "symbol");
        vm.assertEq(bytes(usdc.version()), "2", "version");
        vm.assertEq(usdc.decimals(), 6, "decimals");
        bytes32 domain = _domain("USDC", "2", address(usdc), block.chainid);
        vm.assertEq(usdc.DOMAIN_SEPARATOR(), domain, "domain separator");
    }

    function test_usdc_has_the_standard_type_hashes() public view {
        bytes32 permit = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        vm.assertEq(usdc.PERMIT_TYPEHASH(), permit, "permit");
        bytes32 transfer = 0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267;
        vm.assertEq(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), transfer, "transfer");
        bytes32 receive_ = 0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8;
        vm.assertEq(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), receive_, "receive");
        bytes32 cancel = 0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429;
        vm.assertEq(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), cancel, "cancel");
    }

    function test_usdc_transfers_once_by_authorization() public {
        bytes memory signature = _sign(PAYER_KEY, _transferDigest("TransferWithAuthorization", payer, payee, "nonce"));
        vm.assertEq(_transfer(signature), true, "first");
        vm.assertEq(usdc.authorizationState(payer, "nonce"), true, "used");
        vm.assertEq(_transfer(signature), false, "second");
        vm.assertEq(usdc.balanceOf(payee), 5, "paid");
    }

    function test_usdc_keeps_the_times_of_an_authorization() public {
        bytes memory signature = _sign(PAYER_KEY, _transferDigest("TransferWithAuthorization", payer, payee, "nonce"));
        vm.warp(VALID_AFTER);
        vm.assertEq(_transfer(signature), false, "at validAfter");
        vm.warp(VALID_BEFORE);
        vm.assertEq(_transfer(signature), false, "at validBefore");
        vm.warp(VALID_BEFORE - 1);
        vm.assertEq(_transfer(signature), true, "in between");
    }

    function test_usdc_refuses_bad_signatures() public {
        bytes memory signature = _sign(PAYER_KEY, _transferDigest("TransferWithAuthorization", payer, payee, "nonce"));
        vm.assertEq(_transfer(_highS(signature)), false, "high s");
        vm.assertEq(_transfer(_compact(signature)), false, "64 bytes");
        vm.assertEq(_transfer(""), false, "none");
        bytes32 digest = _transferDigest("ReceiveWithAuthorization", payer, payee, "nonce");
        vm.assertEq(_transfer(_sign(PAYER_KEY, digest)), false, "of another type");
    }

    function test_usdc_takes_split_signatures() public {
        bytes32 digest = _transferDigest("TransferWithAuthorization", payer, payee, "one");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        usdc.transferWithAuthorization(payer, payee, 5, START - 1, VALID_BEFORE, "one", v, r, s);
        digest = _transferDigest("ReceiveWithAuthorization", payer, payee, "two");
        (v, r, s) = vm.sign(PAYER_KEY, digest);
        vm.prank(payee);
        usdc.receiveWithAuthorization(payer, payee, 5, START - 1, VALID_BEFORE, "two", v, r, s);
        vm.assertEq(usdc.balanceOf(payee), 10, "paid");
    }

    function test_usdc_gives_received_authorizations_to_the_receiver_only() public {
        bytes memory signature = _sign(PAYER_KEY, _transferDigest("ReceiveWithAuthorization", payer, payee, "nonce"));
        bytes memory data = abi.encodeWithSignature(
            "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
            payer,
            payee,
            5,
            VALID_AFTER,
            VALID_BEFORE,
            bytes32("nonce"),
            signature
        );
        vm.prank(stranger);
        (bool success,) = address(usdc).call(data);
        vm.assertEq(success, false, "by a stranger");
        vm.prank(payee);
        (success,) = address(usdc).call(data);
        vm.assertEq(success, true, "by the receiver");
    }

    function test_usdc_takes_the_signatures_of_contracts() public {
        OwnedAccount account = new OwnedAccount(signer);
        usdc.mint(address(account), 5);
        bytes32 digest = _transferDigest("TransferWithAuthorization", address(account), payee, "nonce");
        usdc.transferWithAuthorization(
            address(account), payee, 5, START - 1, VALID_BEFORE, "nonce", _sign(SIGNER_KEY, digest)
        );
        vm.assertEq(usdc.balanceOf(payee), 5, "paid");
    }

    function test_usdc_cancels_authorizations() public {
        bytes32 typeHash = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
        bytes memory signature = _sign(PAYER_KEY, _typedData(abi.encode(typeHash, payer, bytes32("nonce"))));
        usdc.cancelAuthorization(payer, "nonce", signature);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, _typedData(abi.encode(typeHash, payer, bytes32("two"))));
        usdc.cancelAuthorization(payer, "two", v, r, s);
        vm.assertEq(usdc.authorizationState(payer, "two"), true, "canceled");
        signature = _sign(PAYER_KEY, _transferDigest("TransferWithAuthorization", payer, payee, "nonce"));
        vm.assertEq(_transfer(signature), false, "used after all");
    }

    function test_usdc_permits_once_until_the_deadline() public {
        bytes memory content = abi.encode(usdc.PERMIT_TYPEHASH(), payer, stranger, uint256(5), uint256(0), VALID_BEFORE);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, _typedData(content));
        bytes memory data = abi.encodeCall(usdc.permit, (payer, stranger, 5, VALID_BEFORE, v, r, s));
        vm.warp(VALID_BEFORE + 1);
        (bool success,) = address(usdc).call(data);
        vm.assertEq(success, false, "expired");
        vm.warp(VALID_BEFORE);
        (success,) = address(usdc).call(data);
        vm.assertEq(success, true, "in time");
        vm.assertEq(usdc.allowance(payer, stranger), 5, "allowance");
        (success,) = address(usdc).call(data);
        vm.assertEq(success, false, "again");
    }
}
