// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {AgreeingAccount, FixedAnswerAccount, OwnedAccount, WritingAccount} from "../src/Accounts.sol";
import {Fixture} from "../src/Fixture.sol";

/// @notice Cases of signatures.tree: who may sign a voucher, and how.
contract SignaturesTest is Fixture {
    function _checkAccepted(IChannelEscrow.ChannelDescriptor memory channel, bytes memory signature) private {
        _call(payee, abi.encodeCall(IChannelEscrow.settle, (channel, 5, 5, signature)));
    }

    function _checkRefused(IChannelEscrow.ChannelDescriptor memory channel, bytes memory signature) private {
        address expected = channel.authorizedSigner == address(0) ? channel.payer : channel.authorizedSigner;
        _call(
            payee,
            abi.encodeCall(IChannelEscrow.settle, (channel, 5, 5, signature)),
            _invalidSignature(expected, _voucherDigest(channel, 5))
        );
    }

    function _signedBy(address authorizedSigner) private returns (IChannelEscrow.ChannelDescriptor memory channel) {
        channel = _channel(address(usdc));
        channel.authorizedSigner = authorizedSigner;
        _open(channel, DEPOSIT);
    }

    function test_signature_of_the_authorized_signer_counts_and_the_payers_does_not() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _checkRefused(channel, _voucher(channel, 5, PAYER_KEY));
        _checkRefused(channel, _voucher(channel, 5, PAYEE_KEY));
        _checkAccepted(channel, _voucher(channel, 5, SIGNER_KEY));
    }

    function test_signature_of_the_payer_counts_without_an_authorized_signer() public {
        IChannelEscrow.ChannelDescriptor memory channel = _signedBy(address(0));
        _checkRefused(channel, _voucher(channel, 5, SIGNER_KEY));
        _checkAccepted(channel, _voucher(channel, 5, PAYER_KEY));
    }

    function test_signature_with_high_s_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        _checkRefused(channel, _highS(signature));
        _checkAccepted(channel, signature);
    }

    function test_signature_of_64_bytes_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _checkRefused(channel, _compact(_voucher(channel, 5, SIGNER_KEY)));
    }

    function test_signature_of_another_length_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        _checkRefused(channel, "");
        _checkRefused(channel, abi.encodePacked(signature, uint8(0)));
    }

    function testFuzz_signature_with_another_v_is_refused(uint8 v) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        vm.assume(v != uint8(signature[64]));
        signature[64] = bytes1(v);
        _checkRefused(channel, signature);
    }

    function testFuzz_signature_with_a_flipped_bit_is_refused(uint256 bit) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        bit = bit % (65 * 8);
        signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        _checkRefused(channel, signature);
    }

    /// @dev The zero address is what failed recovery gives. It can be a payer where a token lets it.
    function test_signature_of_zeros_does_not_count_for_the_zero_address() public {
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        channel.payer = channel.authorizedSigner = address(0);
        vm.deal(channel.payer, DEPOSIT);
        _open(channel, DEPOSIT);
        _checkRefused(channel, new bytes(65));
    }

    function testFuzz_signature_over_another_amount_is_refused(uint128 amount) public {
        vm.assume(amount != 5);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _checkRefused(channel, _voucher(channel, amount, SIGNER_KEY));
    }

    function test_signature_for_another_channel_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory other = _opened(address(usdc));
        _checkRefused(_opened(address(usdc)), _voucher(other, 5, SIGNER_KEY));
    }

    function test_signature_for_another_chain_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory content = _voucherContent(_id(channel), 5);
        bytes32 foreignDomain = _domain("EVM Payment Channel", "1", address(escrow), block.chainid + 1);
        _checkRefused(channel, _sign(SIGNER_KEY, _digest(foreignDomain, content)));
        bytes32 foreignId = _id(channel, address(escrow), block.chainid + 1);
        _checkRefused(channel, _sign(SIGNER_KEY, _digest(foreignDomain, _voucherContent(foreignId, 5))));
    }

    function test_signature_for_another_escrow_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        address other = _deploy("ChannelEscrow.sol:ChannelEscrow");
        bytes32 foreignDomain = _domain("EVM Payment Channel", "1", other, block.chainid);
        _checkRefused(channel, _sign(SIGNER_KEY, _digest(foreignDomain, _voucherContent(_id(channel), 5))));
        bytes32 foreignId = _id(channel, other, block.chainid);
        _checkRefused(channel, _sign(SIGNER_KEY, _digest(foreignDomain, _voucherContent(foreignId, 5))));
    }

    function test_signature_in_another_domain_is_refused() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory content = _voucherContent(_id(channel), 5);
        bytes32 otherName = _domain("EVM Payment Channels", "1", address(escrow), block.chainid);
        bytes32 otherVersion = _domain("EVM Payment Channel", "2", address(escrow), block.chainid);
        _checkRefused(channel, _sign(SIGNER_KEY, _digest(otherName, content)));
        _checkRefused(channel, _sign(SIGNER_KEY, _digest(otherVersion, content)));
    }

    function test_signature_survives_a_fork_only_on_its_own_chain() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory data = _settleData(channel, 5, 5);
        vm.chainId(31338);
        _call(payee, data, _error(IChannelEscrow.ChannelNotFound.selector, _id(channel)));
        vm.chainId(31337);
        _call(payee, data);
    }

    function test_contract_signer_is_asked() public {
        OwnedAccount account = new OwnedAccount(signer);
        IChannelEscrow.ChannelDescriptor memory channel = _signedBy(address(account));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        account.rotate(stranger);
        vm.prank(payee);
        (bool success,) = address(escrow).call(abi.encodeCall(IChannelEscrow.settle, (channel, 5, 5, signature)));
        vm.assertEq(success, false, "signed by a former owner");
        account.rotate(signer);
        _checkAccepted(channel, signature);
    }

    function test_contract_payer_signs_without_an_authorized_signer() public {
        OwnedAccount account = new OwnedAccount(signer);
        vm.deal(address(account), DEPOSIT);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(NATIVE);
        (channel.payer, channel.authorizedSigner) = (address(account), address(0));
        account.act(address(escrow), DEPOSIT, _openData(channel, DEPOSIT));
        _checkAccepted(channel, _voucher(channel, 5, SIGNER_KEY));
    }

    function test_contract_signer_with_a_wrong_answer_is_refused() public {
        bytes[6] memory answers = [
            bytes(""),
            hex"1626ba7e",
            abi.encode(uint256(1)),
            abi.encode(bytes4(0xffffffff)),
            abi.encodePacked(bytes4(0x1626ba7e), bytes28(uint224(1))),
            abi.encode(uint256(0x1626ba7e))
        ];
        for (uint256 i = 0; i < answers.length; ++i) {
            _checkRefused(_signedBy(address(new FixedAnswerAccount(answers[i]))), "");
        }
        address rightAnswer = address(new FixedAnswerAccount(abi.encode(bytes4(0x1626ba7e))));
        _checkAccepted(_signedBy(rightAnswer), "");
    }

    function test_contract_signer_cannot_write_when_asked() public {
        WritingAccount account = new WritingAccount();
        _checkRefused(_signedBy(address(account)), "");
        vm.assertEq(account.writes(), 0, "writes");
    }

    function test_contract_signer_without_isValidSignature_is_refused() public {
        _checkRefused(_signedBy(address(usdc)), "");
        _checkRefused(_signedBy(address(escrow)), "");
        _checkRefused(_signedBy(address(4)), "");
    }

    function test_code_set_later_does_not_void_signatures() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        vm.etch(signer, address(new FixedAnswerAccount(abi.encode(bytes4(0xffffffff)))).code);
        _checkAccepted(channel, signature);
    }

    function test_delegation_set_later_does_not_void_signatures() public {
        vm.setEvmVersion("prague");
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _voucher(channel, 5, SIGNER_KEY);
        address refusing = address(new FixedAnswerAccount(abi.encode(bytes4(0xffffffff))));
        vm.signAndAttachDelegation(refusing, SIGNER_KEY);
        usdc.mint(stranger, 1);
        vm.assertEq(signer.code, abi.encodePacked(hex"ef0100", refusing), "delegated");
        _checkAccepted(channel, signature);
    }

    function test_delegation_lets_the_delegate_answer() public {
        vm.setEvmVersion("prague");
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        vm.signAndAttachDelegation(address(new AgreeingAccount()), SIGNER_KEY);
        usdc.mint(stranger, 1);
        _checkAccepted(channel, "as the delegate likes");
    }
}
