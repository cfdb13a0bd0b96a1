// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {OwnedAccount} from "../src/Accounts.sol";
import {Fixture} from "../src/Fixture.sol";
import {ReentrantToken} from "../src/Tokens.sol";

/// @notice Cases of settleWithAuthorization.tree and closeWithAuthorization.tree. What both share is tested for both.
contract PayeeAuthorizationTest is Fixture {
    string private constant SETTLE_TYPE =
        "SettleAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)";
    string private constant CLOSE_TYPE =
        "CloseAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)";

    struct Terms {
        uint128 cumulative;
        uint128 capture;
        uint256 nonce;
        uint256 deadline;
    }

    function _terms(uint256 nonce) private pure returns (Terms memory) {
        return Terms(9, 5, nonce, START + 60);
    }

    function _content(bool closing, bytes32 channelId, Terms memory terms) private pure returns (bytes memory) {
        return abi.encode(
            keccak256(bytes(closing ? CLOSE_TYPE : SETTLE_TYPE)),
            channelId,
            terms.cumulative,
            terms.capture,
            terms.nonce,
            terms.deadline
        );
    }

    function _authorizationDigest(bool closing, IChannelEscrow.ChannelDescriptor memory channel, Terms memory terms)
        private
        view
        returns (bytes32)
    {
        return _digest(_escrowDomain(), _content(closing, _id(channel), terms));
    }

    function _authorize(bool closing, IChannelEscrow.ChannelDescriptor memory channel, Terms memory terms)
        private
        view
        returns (bytes memory)
    {
        return _sign(PAYEE_KEY, _authorizationDigest(closing, channel, terms));
    }

    function _data(
        bool closing,
        IChannelEscrow.ChannelDescriptor memory channel,
        Terms memory terms,
        bytes memory payeeSignature,
        bytes memory voucher
    ) private pure returns (bytes memory) {
        bytes4 selector = closing
            ? IChannelEscrow.closeWithAuthorization.selector
            : IChannelEscrow.settleWithAuthorization.selector;
        return abi.encodeWithSelector(
            selector, channel, terms.cumulative, terms.capture, terms.nonce, terms.deadline, payeeSignature, voucher
        );
    }

    function _data(bool closing, IChannelEscrow.ChannelDescriptor memory channel, Terms memory terms)
        private
        view
        returns (bytes memory)
    {
        bytes memory voucher = _voucher(channel, terms.cumulative, SIGNER_KEY);
        return _data(closing, channel, terms, _authorize(closing, channel, terms), voucher);
    }

    function testFuzz_authorization_lets_anyone_submit(bool closing, address submitter, bool native) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(native ? NATIVE : address(usdc));
        vm.assume(submitter != address(0));
        _call(submitter, _data(closing, channel, _terms(1)));
        _checkState(channel, DEPOSIT, 5, 0, closing);
        vm.assertEq(_tokenBalance(channel.token, payee), 5, "paid");
        vm.assertEq(escrow.isNonceUsed(_id(channel), 1), true, "nonce used");
    }

    function test_authorization_to_settle_emits() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory data = _data(false, channel, _terms(1));
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.Settled(_id(channel), payer, payee, 5, 5);
        _call(stranger, data);
    }

    function test_authorization_to_close_refunds_and_emits() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        uint256 before = usdc.balanceOf(payer);
        bytes memory data = _data(true, channel, _terms(1));
        vm.expectEmit(address(escrow));
        emit IChannelEscrow.ChannelClosed(_id(channel), payer, payee, 5, DEPOSIT - 5);
        _call(stranger, data);
        vm.assertEq(usdc.balanceOf(payer) - before, DEPOSIT - 5, "refunded");
    }

    function testFuzz_authorization_is_used_once(bool first, bool second) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        _call(stranger, _data(false, channel, _terms(1)));
        Terms memory terms = Terms(10, 10, 1, START + 60);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.NonceAlreadyUsed.selector, _id(channel), 1);
        _call(stranger, _data(first, channel, _terms(1)), expected);
        _call(stranger, _data(second, channel, terms), expected);
        terms.nonce = 2;
        _call(stranger, _data(second, channel, terms));
    }

    function test_authorization_nonces_have_no_order_and_one_set_for_each_channel() public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        IChannelEscrow.ChannelDescriptor memory other = _opened(address(usdc));
        _call(stranger, _data(false, channel, _terms(type(uint256).max)));
        vm.assertEq(escrow.isNonceUsed(_id(other), type(uint256).max), false, "used on the other channel");
        _call(stranger, _data(false, other, _terms(type(uint256).max)));
        _call(stranger, _data(true, channel, Terms(10, 10, 0, START + 60)));
    }

    function testFuzz_authorization_reverts_leave_the_nonce_unused(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory data = _data(closing, channel, _terms(1), _authorize(closing, channel, _terms(1)), "");
        _call(stranger, data, _invalidSignature(signer, _voucherDigest(channel, 9)));
        vm.assertEq(escrow.isNonceUsed(_id(channel), 1), false, "nonce used");
    }

    function testFuzz_authorization_ends_after_its_deadline(bool closing, uint8 step) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory data = _data(closing, channel, _terms(1));
        vm.warp(START + 59 + step % 3);
        bytes memory expected = abi.encodeWithSelector(IChannelEscrow.AuthorizationExpired.selector, START + 60);
        _call(stranger, data, step % 3 == 2 ? expected : bytes(""));
    }

    function testFuzz_authorization_binds_every_term(bool closing, uint8 part) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _authorize(closing, channel, _terms(1));
        Terms memory terms = _terms(1);
        part = part % 5;
        if (part == 0) terms.cumulative += 1;
        if (part == 1) terms.capture += 1;
        if (part == 2) terms.nonce += 1;
        if (part == 3) terms.deadline += 1;
        if (part == 4) channel = _opened(address(usdc));
        bytes memory voucher = _voucher(channel, terms.cumulative, SIGNER_KEY);
        bytes memory expected = _invalidSignature(payee, _authorizationDigest(closing, channel, terms));
        _call(stranger, _data(closing, channel, terms, signature, voucher), expected);
    }

    function testFuzz_authorization_to_settle_does_not_close_or_the_reverse(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory signature = _authorize(!closing, channel, _terms(1));
        bytes memory expected = _invalidSignature(payee, _authorizationDigest(closing, channel, _terms(1)));
        _call(stranger, _data(closing, channel, _terms(1), signature, _voucher(channel, 9, SIGNER_KEY)), expected);
    }

    function testFuzz_authorization_for_another_chain_or_escrow_is_refused(bool closing, bool chain) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        address verifier = chain ? address(escrow) : stranger;
        bytes32 domain = _domain("EVM Payment Channel", "1", verifier, chain ? block.chainid + 1 : block.chainid);
        bytes memory signature = _sign(PAYEE_KEY, _digest(domain, _content(closing, _id(channel), _terms(1))));
        bytes memory expected = _invalidSignature(payee, _authorizationDigest(closing, channel, _terms(1)));
        _call(stranger, _data(closing, channel, _terms(1), signature, _voucher(channel, 9, SIGNER_KEY)), expected);
    }

    function testFuzz_authorization_follows_the_signature_rules(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory good = _authorize(closing, channel, _terms(1));
        bytes memory voucher = _voucher(channel, 9, SIGNER_KEY);
        bytes memory expected = _invalidSignature(payee, _authorizationDigest(closing, channel, _terms(1)));
        _call(stranger, _data(closing, channel, _terms(1), _highS(good), voucher), expected);
        _call(stranger, _data(closing, channel, _terms(1), _compact(good), voucher), expected);
        _call(stranger, _data(closing, channel, _terms(1), "", voucher), expected);
        _call(stranger, _data(closing, channel, _terms(1), voucher, voucher), expected);
        bytes memory payers = _sign(PAYER_KEY, _authorizationDigest(closing, channel, _terms(1)));
        _call(stranger, _data(closing, channel, _terms(1), payers, voucher), expected);
        vm.etch(payee, hex"fe");
        _call(stranger, _data(closing, channel, _terms(1), good, voucher));
    }

    function testFuzz_authorization_of_a_contract_payee_is_asked_for(bool closing) public {
        OwnedAccount account = new OwnedAccount(payee);
        IChannelEscrow.ChannelDescriptor memory channel = _channel(address(usdc));
        channel.payee = address(account);
        _open(channel, DEPOSIT);
        _call(stranger, _data(closing, channel, _terms(1)));
        vm.assertEq(usdc.balanceOf(address(account)), 5, "paid");
    }

    function testFuzz_authorization_does_not_replace_the_voucher(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(usdc));
        bytes memory voucher = _sign(PAYEE_KEY, _voucherDigest(channel, 9));
        bytes memory data = _data(closing, channel, _terms(1), _authorize(closing, channel, _terms(1)), voucher);
        _call(stranger, data, _invalidSignature(signer, _voucherDigest(channel, 9)));
    }

    function testFuzz_authorization_follows_the_capture_rules(bool closing) public {
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), 3);
        uint256 end = START + 60;
        bytes memory expected = _error(IChannelEscrow.AmountNotIncreasing.selector, 2, 3);
        _call(stranger, _data(closing, channel, Terms(9, 2, 1, end)), expected);
        expected = _error(IChannelEscrow.CaptureAmountInvalid.selector, 10, 9);
        _call(stranger, _data(closing, channel, Terms(9, 10, 1, end)), expected);
        expected = _error(IChannelEscrow.AmountExceedsDeposit.selector, DEPOSIT + 1, DEPOSIT);
        _call(stranger, _data(closing, channel, Terms(2 * DEPOSIT, DEPOSIT + 1, 1, end)), expected);
        IChannelEscrow.ChannelDescriptor memory missing = _channel(address(usdc));
        expected = _error(IChannelEscrow.ChannelNotFound.selector, _id(missing));
        _call(stranger, _data(closing, missing, _terms(1)), expected);
        _call(payee, _closeData(channel, 4, 4));
        expected = _error(IChannelEscrow.ChannelFinalized.selector, _id(channel));
        _call(stranger, _data(closing, channel, _terms(1)), expected);
    }

    function test_authorization_to_close_without_a_capture_needs_no_voucher() public {
        IChannelEscrow.ChannelDescriptor memory channel = _settled(address(usdc), 3);
        Terms memory terms = Terms(3, 3, 1, START + 60);
        _call(stranger, _data(true, channel, terms, _authorize(true, channel, terms), ""));
        _checkState(channel, DEPOSIT, 3, 0, true);
    }

    function testFuzz_authorization_cannot_be_submitted_again_while_it_pays(bool closing) public {
        ReentrantToken token = new ReentrantToken();
        _fund(address(token), payer);
        IChannelEscrow.ChannelDescriptor memory channel = _opened(address(token));
        token.arm(address(escrow), _data(false, channel, Terms(9, 7, 2, START + 60)));
        _call(stranger, _data(closing, channel, _terms(1)));
        vm.assertEq(token.called(), true, "called back");
        vm.assertEq(token.succeeded(), false, "entered again");
        vm.assertEq(token.balanceOf(payee), 5, "paid");
    }
}
